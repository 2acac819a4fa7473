"""Runs the op tests against a copy of the package; called by sanitize.sh.

usage: sanitized_tests.py PACKAGE_FOLDER PYTEST_EXPRESSION
"""

import sys

folder, expression = sys.argv[1:]
# An editable install answers every import of the package before sys.path is asked.
sys.meta_path = [
    f for f in sys.meta_path if "facekernels" not in getattr(f, "known_source_files", {})
]
sys.path.insert(0, folder)

import pytest  # noqa: E402

import facekernels  # noqa: E402

if folder not in str(facekernels.__file__):
    sys.exit(f"imported {facekernels.__file__} instead of the instrumented copy")
# -s: a sanitizer writes to stderr and the tests must not swallow it.
sys.exit(
    pytest.main(
        ["-q", "-s", "-p", "no:cacheprovider", "python_tests/test_ops.py", "-k", expression]
    )
)
