"""Compiles the root's Python once: by hash and not by time, because the root is read-only and two builds must give the same bytes; without
docstrings, which cost each process a megabyte. Assertions stay. Run by `mkosi.finalize`: `compile.py ROOT DIRECTORY...`"""

import ast
import importlib.util
import marshal
import sys
from pathlib import Path

UNCHECKED_HASH = (0b01).to_bytes(4, "little")


def main() -> None:
    root = Path(sys.argv[1])
    for directory in sys.argv[2:]:
        for source in sorted((root / directory).rglob("*.py")):
            if not source.is_symlink():  # into /etc: a path of the root, not of this machine
                compiled(source, "/" + str(source.relative_to(root)))


def compiled(source: Path, name: str) -> None:
    """A file that is no Python of this version is left to whoever imports it."""
    data = source.read_bytes()
    try:
        tree = ast.parse(data)
    except SyntaxError:
        return
    code = compile(without_docstrings(tree), name, "exec", dont_inherit=True, optimize=0)
    target = source.parent / "__pycache__" / f"{source.stem}.{sys.implementation.cache_tag}.pyc"
    target.parent.mkdir(exist_ok=True)
    target.write_bytes(importlib.util.MAGIC_NUMBER + UNCHECKED_HASH + importlib.util.source_hash(data) + marshal.dumps(code))


def without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(node) is not None:
            node.body[:1] = [] if len(node.body) > 1 or isinstance(node, ast.Module) else [ast.copy_location(ast.Pass(), node.body[0])]
    return tree


main()
