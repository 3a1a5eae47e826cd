"""A structure-aware fuzzer of everything that reads files of strangers: `make fuzz`, or `python -m tests.fuzz`."""
