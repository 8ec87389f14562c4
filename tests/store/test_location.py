"""Where the database is: --db, else AUTOTUNE_DB, else the user's data folder."""

from pathlib import Path

import pytest

from autotune.errors import UserError
from autotune.store.location import locate


def test_the_option_comes_before_the_variable(tmp_path: Path, own_database: Path) -> None:
    place = locate(tmp_path / "mine.db")
    assert (place.path, place.source) == (tmp_path / "mine.db", "--db")


def test_the_variable_comes_before_the_default(own_database: Path) -> None:
    place = locate()
    assert (place.path, place.source) == (own_database, "AUTOTUNE_DB")


def test_the_default_is_the_users_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AUTOTUNE_DB")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    place = locate()
    assert (place.path, place.source) == (tmp_path / "autotune" / "autotune.db", "default")


def test_an_empty_variable_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOTUNE_DB", "")
    assert locate().source == "default"


@pytest.mark.parametrize("option", ["", " "])
def test_an_empty_option_is_not_the_users_own_database(option: str) -> None:
    """`--db "$UNSET"` of a script must not write there."""
    with pytest.raises(UserError, match="--db is empty"):
        locate(option)


def test_a_relative_path_is_of_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert locate("mine.db").path == tmp_path / "mine.db"


def test_a_tilde_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert locate("~/mine.db").path == tmp_path / "mine.db"


def test_an_sqlite_url_is_a_path(tmp_path: Path) -> None:
    assert locate(f"sqlite:///{tmp_path}/mine.db").path == tmp_path / "mine.db"


def test_another_url_stays_one_and_hides_its_password() -> None:
    place = locate("postgresql+psycopg://me:secret@host/autotune")
    assert place.path is None
    assert place.url == "postgresql+psycopg://me:secret@host/autotune"
    assert str(place) == "postgresql+psycopg://me:***@host/autotune"


def test_what_is_no_url_is_refused_without_showing_a_password() -> None:
    with pytest.raises(UserError, match=r"--db postgresql://… is not a database URL") as error:
        locate("postgresql://me:secret@host:port/autotune")
    assert "secret" not in str(error.value)
