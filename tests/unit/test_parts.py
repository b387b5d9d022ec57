"""Parts: whole files that stand as one stage, and stages that another file defines."""

from __future__ import annotations

import os

import pytest

import zpipe as zp

CODE = """def tweets(count=3):
    yield from range(count)

def tokenize(x, lang="en", deep=None):
    return x

def lemmatize(x):
    return x

def show(x):
    return x

def both(a, b):
    return a
"""
TEXT = """schema = 1
name = "text"
[stage.tokenize]
run = "stages:tokenize"
from = "input"
workers = 2
args = { lang = "fr" }
[stage.lemmatize]
run = "stages.py:lemmatize"
from = "tokenize"
"""
HEAD = 'schema = 1\nname = "p"\n'
TWEETS = HEAD + '[stage.tweets]\nrun = "stages:tweets"\n'
CLEAN = '[stage.clean]\nuse = "text.toml"\nfrom = "tweets"\n'
SHOW = '[stage.show]\nrun = "stages:show"\nfrom = "clean"\n'
MAIN = TWEETS + CLEAN + SHOW
BY_HAND = (
    TWEETS
    + """[stage.clean-tokenize]
run = "stages:tokenize"
from = "tweets"
workers = 2
args = { lang = "fr" }
[stage.clean-lemmatize]
run = "stages.py:lemmatize"
from = "clean-tokenize"
[stage.show]
run = "stages:show"
from = "clean-lemmatize"
"""
)


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Write files of a folder, which is also the working directory, and load the pipeline p.toml."""
    monkeypatch.chdir(tmp_path)

    def files(main=MAIN, sets=(), **others):
        for name, text in {"p": main, "text": TEXT, **others}.items():
            path = tmp_path / f"{name.replace('__', '/')}.toml"
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
            (path.parent / "stages.py").write_text(CODE)
        return zp.Pipeline.load("p.toml", sets)

    return files


def tables(pipeline):
    return pipeline.to_dict()["stage"]


def faults(pipeline):
    with pytest.raises(zp.ConfigError) as caught:
        pipeline.check()
    return list(caught.value.faults)


def test_a_file_stands_as_one_stage(files, tmp_path):
    pipeline = files()
    (tmp_path / "hand.toml").write_text(BY_HAND)

    pipeline.check()
    assert pipeline == zp.Pipeline.load("hand.toml")
    assert [spec.name for spec in pipeline.stages] == ["tweets", "clean-tokenize", "clean-lemmatize", "show"]


def test_the_same_in_python(files, tmp_path):
    pipeline = files()
    x = zp.stage("stages:tweets")
    x = zp.use("text.toml", name="clean")(x)
    twin = zp.Pipeline("p", zp.stage("stages:show")(x), folder=tmp_path)

    assert twin == pipeline
    assert zp.Pipeline("p", [zp.stage("stages:tweets"), zp.use("text.toml")], folder=tmp_path).stage("text-tokenize")


def test_it_is_saved_as_a_file_that_needs_no_other(files, tmp_path):
    pipeline = files()
    pipeline.save("q.toml")
    (tmp_path / "text.toml").unlink()

    saved = zp.Pipeline.load("q.toml")
    saved.check()
    assert saved == pipeline
    assert "workers" in saved.summary()


def test_sets_change_the_stages_of_a_part(files):
    pipeline = files(sets=["clean-tokenize.workers=8", "clean-tokenize.lang=de"])

    assert tables(pipeline)["clean-tokenize"]["workers"] == 8
    assert tables(pipeline)["clean-tokenize"]["args"] == {"lang": "de"}
    assert tables(pipeline.with_sets(["clean-tokenize.workers=3"]))["clean-tokenize"]["workers"] == 3


def test_a_set_of_the_part_itself_names_its_stages(files):
    assert faults(files(sets=["clean.workers=8"])) == [
        "--set clean.workers=8: there is no stage 'clean': it has parts, like 'clean-tokenize'"
    ]


def test_what_the_user_says_of_a_part_counts_for_more(files):
    more = 'args.tokenize.deep = 1\nworkers.tokenize = 4\nenv.lemmatize = { A = "1" }\n'
    clean = tables(files(TWEETS + CLEAN + more + SHOW))

    assert clean["clean-tokenize"]["args"] == {"lang": "fr", "deep": 1}
    assert clean["clean-tokenize"]["workers"] == 4
    assert clean["clean-lemmatize"]["env"] == {"A": "1"}


def test_python_says_it_the_same_way(files, tmp_path):
    toml = files(TWEETS + CLEAN + 'args.tokenize.lang = "de"\nworkers.tokenize = 4\n')
    part = zp.use("text.toml", name="clean", args={"tokenize": {"lang": "de"}}, workers={"tokenize": 4})

    assert zp.Pipeline("p", [zp.stage("stages:tweets"), part], folder=tmp_path) == toml


def test_a_part_used_twice_is_there_twice(files):
    other = '[stage.other]\nuse = "text.toml"\nfrom = "clean"\nargs.tokenize.lang = "de"\n'
    found = tables(files(TWEETS + CLEAN + other))

    assert found["clean-tokenize"]["args"] == {"lang": "fr"}
    assert found["other-tokenize"]["args"] == {"lang": "de"}
    assert found["other-tokenize"]["from"] == "clean-lemmatize"


def test_several_stages_of_a_part_read_its_input_and_it_reads_several(files):
    text = """schema = 1
name = "text"
[stage.left]
run = "stages:tokenize"
from = "input"
[stage.right]
run = "stages:lemmatize"
from = ["left", "input"]
[stage.both]
run = "stages:both"
join = ["left", "right"]
"""
    main = TWEETS + '[stage.more]\nrun = "stages:tweets"\n' + CLEAN.replace('"tweets"', '["tweets", "more"]')
    found = tables(files(main, text=text))

    assert found["clean-left"]["from"] == ["tweets", "more"]
    assert found["clean-right"]["from"] == ["clean-left", "tweets", "more"]
    assert found["clean-both"]["join"] == ["clean-left", "clean-right"]


def test_a_part_joins_its_input_with_a_stage_of_its_own(files):
    text = TEXT + '[stage.both]\nrun = "stages:both"\njoin = ["input", "lemmatize"]\n'

    pipeline = files(text=text)
    pipeline.check()
    assert tables(pipeline)["clean-both"]["join"] == ["tweets", "clean-lemmatize"]
    assert tables(pipeline)["show"]["from"] == "clean-both"


def test_joins_read_parts_and_a_stage_that_another_file_defines_may_join(files):
    main = TWEETS + CLEAN + '[stage.end]\nuse = "text.toml:both"\njoin = ["tweets", "clean"]\n'
    pipeline = files(main, text=TEXT + '[stage.both]\nrun = "stages:both"\njoin = ["input", "lemmatize"]\n')

    pipeline.check()
    assert tables(pipeline)["end"] == {"run": "stages:both", "join": ["tweets", "clean-both"]}


ENDS = TEXT + '[stage.spam]\nrun = "stages:show"\nfrom = "tokenize"\n'


@pytest.mark.parametrize(
    ("read", "reads"),
    [
        ("clean-spam", "clean-spam"),
        ("clean.spam", "clean-spam"),
        ("clean.lemmatize.odd", "clean-lemmatize.odd"),
        ("clean-tokenize", "clean-tokenize"),
    ],
)
def test_one_of_several_ends_is_read_by_its_name(files, read, reads):
    pipeline = files(MAIN.replace('from = "clean"', f'from = "{read}"'), text=ENDS)

    assert tables(pipeline)["show"]["from"] == reads


def test_an_output_of_the_only_end_is_read_by_its_name(files, tmp_path):
    pipeline = files(MAIN.replace('from = "clean"', 'from = [{ stage = "clean.odd" }]'))
    part = zp.use("text.toml", name="clean")(zp.stage("stages:tweets"))

    assert tables(pipeline)["show"]["from"] == "clean-lemmatize.odd"
    assert zp.Pipeline("p", zp.stage("stages:show")(part["odd"]), folder=tmp_path) == pipeline


def test_a_part_with_several_ends_is_not_read_as_one(files):
    assert faults(files(text=ENDS)) == [
        "p.toml:10: stage 'show' reads 'clean', which has 2 ends: read one, like 'clean-lemmatize'"
    ]


def test_a_part_may_have_sources_and_sinks_of_its_own(files):
    text = TWEETS + '[stage.keep]\nrun = "zpipe.sinks:jsonl"\nargs = { path = "x" }\nfrom = "tweets"\n'
    pipeline = files(HEAD + '[stage.all]\nuse = "text.toml"\n', text=text)

    pipeline.check()
    assert {spec.name: pipeline.role(spec) for spec in pipeline.stages} == {"all-tweets": "source", "all-keep": "sink"}


def test_parts_use_parts(files):
    outer = """schema = 1
name = "outer"
[stage.inner]
use = "text.toml"
from = "input"
args.tokenize = { deep = 1 }
[stage.last]
run = "stages:show"
from = "inner"
"""
    main = TWEETS + '[stage.clean]\nuse = "outer.toml"\nfrom = "tweets"\nargs.inner.tokenize.lang = "de"\n'
    pipeline = files(main + SHOW.replace('"clean"', '"clean.inner"'), outer=outer)

    pipeline.check()
    found = tables(pipeline)
    assert list(found) == ["tweets", "clean-inner-tokenize", "clean-inner-lemmatize", "clean-last", "show"]
    assert found["clean-inner-tokenize"]["args"] == {"lang": "de", "deep": 1}
    assert found["clean-inner-tokenize"]["from"] == "tweets"
    assert found["clean-last"]["from"] == found["show"]["from"] == "clean-inner-lemmatize"


def test_defaults_of_a_part_hold_in_it_and_then_those_of_its_user(files):
    defaults = '[defaults]\nworkers = 3\nepochs = 2\nenv = { A = "part", B = "part" }\n'
    main = MAIN.replace(
        TWEETS, TWEETS.replace(HEAD, HEAD + '[defaults]\nworkers = 9\nenv = { B = "main", C = "main" }\n')
    )
    found = tables(files(main, text=TEXT + defaults))

    env = {"A": "part", "B": "part", "C": "main"}
    assert (found["clean-tokenize"]["workers"], found["clean-tokenize"]["env"]) == (2, env)
    assert (found["clean-lemmatize"]["workers"], found["clean-lemmatize"]["env"]) == (3, env)
    assert "epochs" not in found["clean-lemmatize"]
    assert (found["show"]["workers"], found["show"]["env"]) == (9, {"B": "main", "C": "main"})


def test_code_is_found_from_the_folder_of_the_part(files, tmp_path):
    pipeline = files(MAIN.replace("text.toml", "parts/text.toml"), parts__text=TEXT + (
        '[stage.batch]\nrun = "zpipe.stages:batch"\nargs = { size = 2 }\nfrom = "lemmatize"\n'
        '[stage.far]\nrun = "other:f"\nfrom = "batch"\n'
    ))  # fmt: skip
    (tmp_path / "other.py").write_text("def f(x):\n    return x\n")
    (tmp_path / "stages.py").write_text("def tweets():\n    yield 1\n\ndef show(x):\n    return x\n")
    (tmp_path / "parts" / "stages.py").write_text(f"import helper\n{CODE}")
    (tmp_path / "parts" / "helper.py").write_text("")

    pipeline.check()
    assert [table["run"] for table in tables(pipeline).values()] == [
        "stages:tweets", "parts/stages:tokenize", "parts/stages.py:lemmatize", "zpipe.stages:batch", "other:f",
        "stages:show",
    ]  # fmt: skip
    pipeline.save("q.toml")
    zp.Pipeline.load("q.toml").check()


def test_a_part_beside_the_folder_is_found(files, tmp_path, monkeypatch):
    files(parts__text=TEXT)
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "p.toml").write_text(MAIN.replace("text.toml", "../parts/text.toml"))
    (tmp_path / "sub" / "stages.py").write_text(CODE)

    pipeline = zp.Pipeline.load("sub/p.toml")
    pipeline.check()
    assert tables(pipeline)["clean-tokenize"]["run"] == "../parts/stages:tokenize"


def test_tests_of_a_part_are_tests_of_its_stages(files):
    test = '[[test]]\nstage = "tokenize"\ninput = [1]\noutput = [1]\n'
    pipeline = files(MAIN + test.replace("tokenize", "show"), text=TEXT + test)

    pipeline.check()
    assert [table["stage"] for table in pipeline.tests] == ["show", "clean-tokenize"]
    assert faults(files(text=TEXT + test.replace("tokenize", "tokenise"))) == [
        "text.toml:12: test 1 is of stage 'clean-tokenise', but there is no such stage: did you mean 'clean-tokenize'?"
    ]


def test_a_stage_that_another_file_defines(files):
    main = TWEETS + '[stage.words]\nuse = "text.toml:tokenize"\nfrom = "tweets"\nargs = { deep = 1 }\nworkers = 8\n'
    found = tables(files(main))

    assert found["words"] == {
        "run": "stages:tokenize", "from": "tweets", "args": {"lang": "fr", "deep": 1}, "workers": 8,
    }  # fmt: skip


def test_the_same_definition_in_python(files, tmp_path):
    toml = files(TWEETS + '[stage.tokenize]\nuse = "text.toml:tokenize"\nfrom = "tweets"\nworkers = 8\n')
    twin = zp.Pipeline("p", zp.use("text.toml:tokenize", workers=8)(zp.stage("stages:tweets")), folder=tmp_path)

    assert twin == toml


def test_a_definition_brings_its_defaults_and_its_folder_through_other_files(files):
    middle = 'schema = 1\nname = "m"\n[defaults]\nworkers = 5\n[stage.b]\nuse = "parts/text.toml:lemmatize"\n'
    part = TEXT + '[defaults]\nworkers = 3\nenv = { A = "1" }\nepochs = 4\n'
    main = TWEETS + '[stage.a]\nuse = "middle.toml:b"\nfrom = "tweets"\n'

    assert tables(files(main, middle=middle, parts__text=part))["a"] == {
        "run": "parts/stages.py:lemmatize", "from": "tweets", "workers": 3, "env": {"A": "1"},
    }  # fmt: skip


def test_a_definition_may_be_a_whole_file(files):
    middle = 'schema = 1\nname = "m"\n[stage.b]\nuse = "../text.toml"\nfrom = "x"\nargs.tokenize.lang = "it"\n'
    main = TWEETS + '[stage.a]\nuse = "parts/middle.toml:b"\nfrom = "tweets"\nworkers.tokenize = 7\n'
    found = tables(files(main, parts__middle=middle))

    assert list(found) == ["tweets", "a-tokenize", "a-lemmatize"]
    assert (found["a-tokenize"]["args"], found["a-tokenize"]["workers"]) == ({"lang": "it"}, 7)


def test_a_file_may_use_a_definition_of_its_own(files):
    found = tables(files(MAIN + '[stage.again]\nuse = "p.toml:show"\nfrom = "show"\n'))

    assert found["again"]["run"] == "stages:show"


def test_faults_of_all_files_are_found_at_once_where_they_stand(files):
    text = TEXT.replace('lemmatize"\nfrom', 'lemmatise"\nwokers = 1\nfrom').replace('lang = "fr"', 'lng = "fr"')
    main = MAIN.replace("show", "shwo", 1).replace('from = "tweets"', 'from = "twets"\nargs.lemmatize.x = 1')

    assert faults(files(main + "colour = 1\n", text="color = 1\n" + text)) == [
        "text.toml:1: unknown key 'color'",
        "p.toml:7: stage 'clean-tokenize' reads 'twets', but there is no such stage: did you mean 'tweets'?",
        "text.toml:8: stage 'clean-tokenize' (stages:tokenize) takes no argument 'lng': did you mean 'lang'?",
        "text.toml:10: stage 'clean-lemmatize': stages.py has no 'lemmatise': did you mean 'lemmatize'?",
        "text.toml:11: stage 'clean-lemmatize': there is no option 'wokers': did you mean 'workers'?",
        "p.toml:12: stage 'shwo': there is no option 'colour'",
    ]


def test_a_fault_of_what_is_laid_over_stands_where_it_is_said(files):
    more = "args.tokenize.lag = 1\nworkers.tokenize = 0\nworkers.lemmatise = 1\nretries = 3\n"

    assert faults(files(TWEETS + CLEAN + more)) == [
        "p.toml:10: stage 'clean' has no stage 'lemmatise': did you mean 'lemmatize'?",
        "p.toml:11: stage 'clean' is a whole file, but retries is 3: say it by stage, like retries.tokenize = ...",
        "p.toml:9: stage 'clean-tokenize': workers must be a whole number, at least 1, not 0",
        "p.toml:8: stage 'clean-tokenize' (stages:tokenize) takes no argument 'lag': did you mean 'lang'?",
    ]


def test_a_fault_of_a_definition_stands_in_its_file(files):
    text = TEXT.replace("workers = 2", "workers = 0").replace('{ lang = "fr" }', '{ lng = "fr" }')
    main = TWEETS + '[stage.words]\nuse = "text.toml:tokenize"\nfrom = "tweets"\nargs = { dep = 1 }\n'

    assert faults(files(main, text=text)) == [
        "text.toml:6: stage 'words': workers must be a whole number, at least 1, not 0",
        "text.toml:7: stage 'words' (stages:tokenize) takes no argument 'lng': did you mean 'lang'?",
        "p.toml:8: stage 'words' (stages:tokenize) takes no argument 'dep': did you mean 'deep'?",
    ]


@pytest.mark.parametrize(
    ("stage", "said"),
    [
        (
            'use = "txt.toml"',
            "5: stage 'a': txt.toml: cannot be read: no such file or directory: did you mean 'text.toml'?",
        ),
        ('use = "text.toml:tokenise"', "5: stage 'a': text.toml has no stage 'tokenise': did you mean 'tokenize'?"),
        ('use = "text.toml:zzz"', "5: stage 'a': text.toml has no stage 'zzz': it has tokenize, lemmatize"),
        ('use = "text"', "5: stage 'a': use is 'text': write 'file.toml' or 'file.toml:stage'"),
        ("use = 3", "5: stage 'a': use is 3: write 'file.toml' or 'file.toml:stage'"),
        ('use = "text.toml"\nrun = "stages:show"', "5: stage 'a' has run and use: leave one of them out"),
        ('use = "text.toml"', "4: stage 'a': text.toml reads 'input': say with from what that is here"),
        (
            'use = "text.toml"\njoin = ["tweets", "more"]',
            "6: stage 'a' is the whole of text.toml, which reads one input: name it in from, or join below or above",
        ),
        (
            'use = "whole.toml"\nfrom = "tweets"',
            "6: stage 'a': no stage of whole.toml reads from outside: write from = 'input' there, or leave from out",
        ),
        ('use = "empty.toml"', "5: stage 'a': empty.toml has no stages"),
        (
            'use = "loop.toml"\nfrom = "tweets"',
            "loop.toml:4: stage 'x': what it uses comes back to itself, loop.toml -> loop.toml: cut one use",
        ),
        (
            'use = "p.toml"',
            "5: stage 'a': what it uses comes back to itself, p.toml -> p.toml: cut one use",
        ),
        (
            'use = "p.toml:a"',
            "5: stage 'a': what it uses comes back to itself, p.toml:a -> p.toml:a: cut one use",
        ),
    ],
)  # fmt: skip
def test_a_use_that_cannot_be_is_one_line(files, stage, said):
    line, _, text = said.partition(": ")
    where = line if ":" in line else f"p.toml:{line}"
    others = {
        "whole": TWEETS,
        "empty": HEAD,
        "loop": 'schema = 1\nname = "loop"\n[stage.x]\nuse = "loop.toml"\nfrom = "input"\n',
    }
    sources = '[stage.tweets]\nrun = "stages:tweets"\n[stage.more]\nrun = "stages:tweets"\n'
    main = f'schema = 1\nname = \'p\'\n\n[stage.a]\n{stage}\n{sources}[stage.b]\nrun = "stages:show"\nfrom = "a"\n'

    assert faults(files(main, **others)) == [f"{where}: {text}"]


def test_names_that_clash_are_a_fault(files):
    more = '[stage.clean-tokenize]\nrun = "stages:show"\nfrom = "tweets"\n'

    assert faults(files(MAIN + more)) == [
        "p.toml:11: stage 'clean-tokenize' has the name that 'tokenize' of text.toml gets as a part of 'clean': "
        "rename one of them"
    ]


def test_a_part_by_itself_is_no_pipeline(files):
    files()

    assert faults(zp.Pipeline.load("text.toml"))[-1] == (
        "text.toml:5: stage 'tokenize' reads 'input', so this file is a part: check and run one that has use for it"
    )


def test_a_file_with_a_stage_of_the_name_has_no_input(files):
    main = HEAD + '[stage.all]\nuse = "text.toml"\n'
    pipeline = files(main, text=TEXT + '[stage.input]\nrun = "stages:tweets"\n')

    pipeline.check()
    assert tables(pipeline)["all-tokenize"]["from"] == "all-input"


def test_a_file_of_another_schema_and_its_variables_are_at_fault_once(files):
    text = TEXT.replace("schema = 1", "schema = 2").replace('"fr"', '"${LANG_OF_TEXT}"')
    main = MAIN + '[stage.other]\nuse = "text.toml"\nfrom = "tweets"\n'

    assert faults(files(main, text=text)) == [
        "text.toml:7: stage.tokenize.args.lang: the environment has no LANG_OF_TEXT: set it, or write "
        "${LANG_OF_TEXT:-default}",
        "text.toml:1: schema is 2: this version reads schema = 1",
    ]


def test_faults_of_a_use_in_python_name_its_line(files, tmp_path):
    files()
    pipeline = zp.Pipeline("p", zp.use("txt.toml")(zp.stage("stages:tweets")), folder=tmp_path)

    assert faults(pipeline)[0].startswith(f"{os.path.basename(__file__)}:")
    assert "stage 'txt': " in faults(pipeline)[0]
