"""Serve: trained models over HTTP. A front process that takes requests, and worker processes that hold the models."""
