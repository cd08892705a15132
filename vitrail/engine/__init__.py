"""The training loop and its parts. It uses contracts, no concrete task or model."""
