"""The training loop and its parts. It knows contracts, no concrete task or model."""
