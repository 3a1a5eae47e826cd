"""Every source of objects in one manifest, objects.jsonl: `instant3d data sources SOURCE ... -o objects.jsonl`."""
