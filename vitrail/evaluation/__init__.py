"""What one measures with a trained model."""
