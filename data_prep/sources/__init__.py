"""Sources of objects for one manifest, objects.jsonl: `instant3d data sources SOURCE ... -o objects.jsonl`."""
