"""What runs a network: PyTorch anywhere, OpenVINO on CPUs."""
