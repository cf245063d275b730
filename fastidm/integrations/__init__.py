"""Adapters that let other libraries download through fastidm; each imports its library only when it is itself imported."""
