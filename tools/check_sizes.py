"""Checks that no source file has 500 lines or more, and no function's code 60: what outgrows that has two subjects.

Usage: python tools/check_sizes.py [FILE ...]      without files, all Python files of the repository
"""

import ast
import subprocess
import sys
from pathlib import Path

MAX_FILE_LINES = 500
MAX_FUNCTION_LINES = 60


def too_long(path: Path) -> list[str]:
    """One line for each thing that is too long in a file."""
    text = path.read_text()
    found = []
    if (lines := text.count("\n")) >= MAX_FILE_LINES:
        found.append(f"{path}: {lines} lines, the limit is {MAX_FILE_LINES}")
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno is not None:
            documented = ast.get_docstring(node) is not None and len(node.body) > 1
            body = node.end_lineno - node.body[1 if documented else 0].lineno + 1
            if body >= MAX_FUNCTION_LINES:
                found.append(
                    f"{path}:{node.lineno}: {node.name} has {body} lines, the limit is {MAX_FUNCTION_LINES}"
                )
    return found


def main() -> int:
    """Prints what is too long; 1 if anything is."""
    listed = subprocess.run(["git", "ls-files", "*.py"], check=True, capture_output=True, text=True)  # noqa: S607
    paths = [Path(name) for name in sys.argv[1:] or listed.stdout.split()]
    found = [line for path in paths for line in too_long(path)]
    print("\n".join(found) or f"sizes: {len(paths)} files within their limits")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
