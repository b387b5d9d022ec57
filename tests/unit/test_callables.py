"""Callables: their names, finding them by name, and what they are."""

import functools
import os
import subprocess
import sys
from pathlib import Path

import pytest

from zpipe.values.callables import describe, form_of, in_process, name_of, resolve
from zpipe.values.errors import ConfigError


@pytest.fixture(autouse=True)
def _imports_left_as_they_were(monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        del sys.modules[name]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "mystages.py").write_text("def crops(size): yield size\nclass Train:\n    pass\nnumber = 3\n")
    return tmp_path


def crops(size):
    yield size


class Model:
    def __call__(self, x):
        return x


def test_a_name_is_module_and_name(tmp_path):
    assert name_of(crops, tmp_path) == f"{__name__}:crops"


def test_a_callable_of_the_program_is_named_by_its_file(tmp_path, monkeypatch):
    monkeypatch.setattr(crops, "__module__", "__main__")
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)
    monkeypatch.setattr(sys.modules["__main__"], "__file__", str(tmp_path / "sub" / "prog.py"), raising=False)

    assert name_of(crops, tmp_path / "sub") == "prog.py:crops"
    assert name_of(crops, tmp_path) == "sub/prog.py:crops"


@pytest.mark.parametrize("form", ["mystages:crops", "mystages.py:crops"])
def test_a_callable_is_found_in_the_folder(folder, form):
    assert list(resolve(form, folder)(size=4)) == [4]


def test_a_callable_is_found_in_the_working_directory_after_the_folder(folder, tmp_path_factory, monkeypatch):
    monkeypatch.chdir(folder)

    assert list(resolve("mystages:crops", tmp_path_factory.mktemp("other"))(size=4)) == [4]


def test_a_module_of_another_folder_gives_way_to_one_of_the_same_name(folder, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    (other / "mystages.py").write_text("def crops(size): yield -size\n")
    resolve("mystages:crops", folder)

    assert list(resolve("mystages:crops", other)(size=4)) == [-4]


def test_a_callable_of_an_imported_file_keeps_its_file_as_its_name(folder):
    assert name_of(resolve("mystages.py:crops", folder), folder) == "mystages.py:crops"


@pytest.mark.parametrize(
    ("run", "text"),
    [
        ("mystages", "run is 'mystages': write 'module:name' or 'file.py:name'"),
        ("mystages:crop", "mystages has no 'crop': did you mean 'crops'?"),
        ("mystages:zzz", "mystages has no 'zzz': it has Train, crops"),
        ("mystages:number", "mystages:number is a int: name a function or a class"),
        (
            "mystage:crops",
            "there is no module 'mystage' in {folder} or {cwd} or installed: did you mean 'mystages'?",
        ),
        ("mystage.py:crops", "there is no file mystage.py in {folder} or {cwd}: did you mean 'mystages.py'?"),
        ("my stages:crops", "'my stages' is not a module name: write 'module:name' or 'file.py:name'"),
        (
            "m:<lambda>",
            "a lambda of m has no name to import in a worker: write def at the top level of a module",
        ),
        (
            "m:f.<locals>.g",
            "'g' of m sits inside a function, where no worker can import it: move it to top level",
        ),
        (
            "m:<Net object>",
            "a Net object of m has no name to import: give a function or a class, and its args",
        ),
        (
            "__main__:f",
            "f was made in an interactive session, where no worker can import it: put it in a file (in a notebook: "
            "%%writefile stages.py) and import it from there, or run inline",
        ),
        ("zpipe.stages:bach", "there is no built-in 'zpipe.stages:bach': did you mean 'zpipe.stages:batch'?"),
    ],
)
def test_what_cannot_be_found_is_one_line(folder, run, text):
    with pytest.raises(ConfigError) as e:
        describe(run, folder)
    assert str(e.value) == text.format(folder=folder, cwd=Path.cwd())


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("import nosuchthing", "importing broken failed: ModuleNotFoundError: No module named 'nosuchthing'"),
        ("\n1 / 0", "importing broken failed: ZeroDivisionError: division by zero ({file}:2)"),
        ("def (", "importing broken failed: SyntaxError: "),
        ("import sys\nsys.exit(1)", "importing broken failed: SystemExit: 1 ({file}:2)"),
    ],
)
def test_a_module_that_fails_to_import_is_one_line_with_the_place(folder, source, text):
    (folder / "broken.py").write_text(source)

    with pytest.raises(ConfigError) as e:
        resolve("broken:f", folder)

    assert str(e.value).startswith(text.format(file=folder / "broken.py"))
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("run", ["prog:f", "prog.py:f"])
def test_a_pipeline_does_not_run_while_its_file_is_imported(folder, run):
    (folder / "prog.py").write_text("import zpipe as zp\ndef f():\n    yield 1\nzp.Pipeline('p', zp.stage(f)).run()\n")

    with pytest.raises(ConfigError, match='put it below `if __name__ == "__main__":`'):
        resolve(run, folder)


def edit(path, text):
    """Change a file within the second, to as many bytes: Python's cache of compiled code takes it for the same."""
    before = path.stat()
    assert len(text) == before.st_size
    path.write_text(text)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns - before.st_mtime_ns % 10**9 + 999_999_999))


@pytest.mark.parametrize("run", ["mystages:crops", "mystages.py:crops"])
def test_an_edited_module_is_imported_anew(folder, run):
    before = resolve(run, folder)
    edit(folder / "mystages.py", (folder / "mystages.py").read_text().replace("yield size", "yield -1  "))

    assert list(before(size=4)) == [4]
    assert list(resolve(run, folder)(size=4)) == [-1]


def test_a_module_whose_own_import_was_edited_is_imported_anew(folder):
    (folder / "sizes.py").write_text("SIZE = 3\n")
    (folder / "mystages.py").write_text("from sizes import SIZE\ndef crops(): yield SIZE\n")
    resolve("mystages:crops", folder)
    edit(folder / "sizes.py", "SIZE = 4\n")

    assert list(resolve("mystages:crops", folder)()) == [4]


def test_a_module_that_was_edited_after_the_user_imported_it_is_imported_anew(folder, monkeypatch):
    monkeypatch.syspath_prepend(folder)
    import mystages

    edit(folder / "mystages.py", (folder / "mystages.py").read_text().replace("yield size", "yield -1  "))
    run = name_of(mystages.crops, folder)

    assert run == "mystages:crops"
    assert list(resolve(run, folder)(size=4)) == [-1]


def test_a_fresh_process_does_not_run_compiled_code_of_before_the_edit(folder):
    resolve("mystages:crops", folder)
    edit(folder / "mystages.py", (folder / "mystages.py").read_text().replace("yield size", "yield -1  "))
    resolve("mystages:crops", folder)

    code = "import mystages; print(*mystages.crops(4))"
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True)
    assert done.stdout == "-1\n"


def test_a_module_that_was_not_edited_stays(folder):
    os.utime(folder / "mystages.py", (1, 1))

    assert resolve("mystages:crops", folder) is resolve("mystages:crops", folder)


def test_a_session_has_its_own_functions_for_runs_in_its_process(folder, monkeypatch):
    monkeypatch.setattr(sys.modules["__main__"], "crops", crops, raising=False)

    with in_process():
        assert resolve("__main__:crops", folder) is crops
    with pytest.raises(ConfigError, match="made in an interactive session"):
        resolve("__main__:crops", folder)


def test_a_function_maps():
    def f(x, size=3):
        return x

    info = form_of(f)

    assert (info.form, info.is_class, info.takes_input, info.yields) == ("map", False, True, False)


def test_a_generator_function_splits_and_may_be_a_source():
    info = form_of(crops)

    assert (info.form, info.yields, info.takes_start) == ("split", True, False)


def test_wrappers_and_partials_are_seen_through():
    @functools.wraps(crops)
    def wrapped(*args, **kwargs):
        return crops(*args, **kwargs)

    assert form_of(wrapped).form == "split"
    assert form_of(functools.partial(crops, size=3)).form == "split"


def test_a_class_shows_its_hooks():
    class Train:
        def __init__(self, lr):
            pass

        def __call__(self, x):
            yield x

        def warmup(self):
            pass

        def state(self):
            pass

        def restore(self, state):
            pass

        def epoch_end(self, n):
            pass

        def finish(self):
            pass

        def close(self):
            pass

    info = form_of(Train)

    assert (info.form, info.is_class) == ("split", True)
    assert info.hooks == {"warmup", "state", "restore", "epoch_end", "finish", "close"}
    assert [p.name for p in info.parameters] == ["lr"]
    assert [p.name for p in info.call] == ["x"]


def test_a_class_with_commit_alone_is_a_sink():
    class Sink:
        def commit(self, items):
            pass

    assert (form_of(Sink).form, form_of(Sink).takes_input) == ("commit", True)


def test_a_class_that_iterates_may_be_a_source():
    class Files:
        def __iter__(self):
            yield 1

    assert (form_of(Files).form, form_of(Files).yields, form_of(Files).takes_start) == ("", True, False)


def test_an_async_function_is_recognised():
    async def f(x):
        return x

    assert form_of(f).is_async


def test_a_callable_without_a_signature_takes_anything():
    assert form_of(max).parameters is None
    assert form_of(max).takes_input


def test_built_ins_are_described_without_their_module(tmp_path):
    info = describe("zpipe.stages:batch", tmp_path)

    assert (info.form, [p.name for p in info.parameters]) == ("group", ["size", "drop_last", "order"])
    assert describe("zpipe.stages:unbatch", tmp_path).form == "split"


@pytest.mark.parametrize("run", ["a\0b:f", "m:f\0", f"{'x' * 300}.py:f", f"{'é' * 200}:f"])
def test_what_no_file_or_module_can_be_named_is_one_line(tmp_path: Path, run: str) -> None:
    with pytest.raises(ConfigError, match="no file and no module has such a name"):
        resolve(run, tmp_path)
