collect_ignore = ["unit_test"]  # it has a configuration of its own; tests/test_programs.py runs it
