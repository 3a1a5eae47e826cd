"""Running jobs in processes with limits, on one machine or with Ray."""
