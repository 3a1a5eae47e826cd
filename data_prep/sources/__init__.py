"""Every source of objects in one manifest, objects.jsonl: `python -m data_prep.sources SOURCE ... -o objects.jsonl`."""
