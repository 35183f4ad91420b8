"""Cases -> Plan: `fingerprint` measures the dataset, `planner` decides from what it measured."""
