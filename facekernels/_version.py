from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("facekernels")
except PackageNotFoundError:  # a source tree on PYTHONPATH, never installed
    __version__ = "0+unknown"
