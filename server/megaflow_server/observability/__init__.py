"""What operators see of a running server: health and metrics over HTTP."""
