"""A directory of secret files that changes as kubelet changes a mounted Secret."""

import shutil
from pathlib import Path


class SecretVolume:
    """Files in a folder that `..data` links to, and links to them beside it. `write` replaces all of them at once."""

    def __init__(self, directory: Path, **files: str) -> None:
        self.directory = directory
        self._count = 0
        directory.mkdir(exist_ok=True)
        self.write(**files)

    def prepare(self, **files: str) -> Path:
        """Write the files of the next generation, which nothing links to yet."""
        self._count += 1
        folder = self.directory / f"..2026_11_28_12_00_00.{self._count}"
        folder.mkdir()
        for name, text in files.items():
            (folder / name).write_text(text)
        return folder

    def swap(self, folder: Path) -> None:
        """Let `..data` link to a generation: the files that were there before change in this moment."""
        link = self.directory / "..data_tmp"
        link.symlink_to(folder.name)
        link.rename(self.directory / "..data")

    def clean_up(self, folder: Path) -> None:
        """Add the links of new files, remove those of missing ones, and remove the old generations."""
        for path in folder.iterdir():
            if not (link := self.directory / path.name).is_symlink():
                link.symlink_to(f"..data/{path.name}")
        for link in self.directory.iterdir():
            if not link.name.startswith("..") and not (folder / link.name).exists():
                link.unlink()
        for old in self.directory.glob("..2026*"):
            if old != folder:
                shutil.rmtree(old)

    def write(self, **files: str) -> None:
        """Replace all files."""
        folder = self.prepare(**files)
        self.swap(folder)
        self.clean_up(folder)
