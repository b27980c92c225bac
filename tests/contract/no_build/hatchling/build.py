"""Name and version from PKG-INFO, and not a line of the package's own build script is run."""

from __future__ import annotations

from pathlib import Path


def prepare_metadata_for_build_wheel(metadata_directory: str, config_settings: object = None) -> str:
    fields: dict[str, str] = {}
    for line in Path("PKG-INFO").read_text().splitlines():
        name, _, value = line.partition(": ")
        fields.setdefault(name, value)
    name, version = fields["Name"], fields["Version"]
    folder = Path(metadata_directory, f"{name.replace('-', '_')}-{version}.dist-info")
    folder.mkdir()
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (folder / "WHEEL").write_text("Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
    return folder.name


def build_wheel(wheel_directory: str, config_settings: object = None, metadata_directory: str | None = None) -> str:
    raise RuntimeError("nothing is built here")
