"""What a run does about the images that it reads."""
