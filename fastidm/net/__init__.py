"""Talks. The only place that imports pycurl."""
