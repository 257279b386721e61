"""The configurations that come with the package: find, list and copy them."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from fedloge.errors import FedlogeError, did_you_mean

SCALES = "scales"
"""Folder of files that studies name; they are no configurations of their own."""

POSITIONAL = ("study", "sweep")
"""Verbs whose files are arguments without an option."""


def folder() -> Path:
    """Folder of the files: in an installed package inside it, in a checkout ``configs`` at the top."""
    package = Path(__file__).resolve().parents[1]
    return next((path for path in (package / "configs", package.parents[1] / "configs") if path.is_dir()), package)


def names() -> list[str]:
    """Names of the configurations: paths within the folder, without the suffix."""
    found = (path.relative_to(folder()) for path in folder().rglob("*.yaml") if path.parent.name != SCALES)
    return sorted(path.with_suffix("").as_posix() for path in found)


def find(name: str) -> Path:
    """File of a configuration by its name, of which the last part is enough where it is unique.

    Raises:
        FedlogeError: If there is none, or several.
    """
    known = names()
    found = [name] if name in known else [other for other in known if other.endswith(f"/{name}")]
    if len(found) > 1:
        raise FedlogeError(f"{name!r} is the name of several configurations. Choose one of {', '.join(found)}.")
    if not found:
        hint = did_you_mean(name, [*known, *(other.rpartition("/")[2] for other in known)])
        raise FedlogeError(
            f"{name!r} is no file and no configuration of the package.{hint} `fedloge configs` lists them."
        )
    return folder() / f"{found[0]}.yaml"


def resolved(verb: str, args: Sequence[str]) -> list[str]:
    """Arguments of a verb with paths in place of the names of configurations.

    Raises:
        FedlogeError: If a name is neither a file nor a configuration.
    """
    result, before = [], "" if verb in POSITIONAL else "the verb takes no file"
    for arg in args:
        name, equals, value = arg.partition("=")
        if before in ("--config", "-c") or (before == "" and not arg.startswith("-")):
            arg = _path(arg)
        elif name in ("--config", "-c") and equals:
            arg = f"{name}={_path(value)}"
        result.append(arg)
        is_option = arg.startswith("-") and "=" not in arg
        before = arg if is_option else "" if verb in POSITIONAL else "a value"
    return result


def _path(given: str) -> str:
    """The path of a file or of a configuration; what is neither a path nor a name stays, such as YAML in place."""
    if Path(given).exists() or not re.fullmatch(r"[\w.-]+(/[\w.-]+)*", given):
        return given
    if not Path(given).suffix:
        return str(find(given))
    name = given.removesuffix(".yaml").removeprefix("configs/")
    if name in names():
        raise FedlogeError(
            f"{given!r} does not exist here. The name {name} takes the file of the package, and `fedloge configs copy "
            f"{name} configs` copies it here."
        )
    return given


def beside(path: Path, name: str) -> Path:
    """A file that a study names, relative to the study, or else that of the package's studies."""
    own, packaged = path.parent / name, folder() / "studies" / name
    return packaged if packaged.is_file() and not own.exists() else own


def listing() -> Iterator[str]:
    """A line for each configuration: its name, and what it is in the words of its file."""
    width = max(map(len, names()), default=0)
    for name in names():
        text = (folder() / f"{name}.yaml").read_text(encoding="utf-8")
        about = re.match(r"#\s*(.*)|title:\s*\"?([^\"\n]*)", text)
        yield f"{name:<{width}}  {(about[1] or about[2]) if about else ''}".rstrip()


def copy(chosen: Sequence[str], target: str | Path) -> list[Path]:
    """Copy configurations, and the files that they name, into a folder, under the same relative paths.

    Raises:
        FedlogeError: If there is no such configuration, or a file exists already.
    """
    files = list(dict.fromkeys(file for name in chosen for file in (find(name), *_named_by(find(name)))))
    copies = [Path(target) / file.relative_to(folder()) for file in files]
    for own in copies:
        if own.exists():
            raise FedlogeError(f"{str(own)!r} exists already. Choose another folder.")
    try:
        for file, own in zip(files, copies, strict=True):
            own.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, own)
    except OSError as error:
        raise FedlogeError(f"{str(target)!r} cannot be written: {error.strerror}. Choose another folder.") from error
    return copies


def _named_by(study: Path) -> list[Path]:
    found = re.findall(rf"\b{SCALES}/[\w.-]+\.yaml", study.read_text(encoding="utf-8"))
    return [path for name in dict.fromkeys(found) if (path := study.parent / name).is_file()]
