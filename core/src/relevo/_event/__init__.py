"""Events, their subjects, and their encoding as the body of an envelope."""
