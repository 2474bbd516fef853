collect_ignore = ["unit_test"]  # it has its own configuration; tests/test_programs.py runs it
