"""Benchmarks of facekernels. Run them with `facekernels bench`, or with `pytest benchmarks/`."""
