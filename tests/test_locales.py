"""Translations: every text of every node in every language, and English as the schemas have it."""

import json
from string import Formatter

import pytest
from host import ROOT

LOCALES = ROOT / "locales"
LANGUAGES = sorted(p.name for p in LOCALES.iterdir())


def read(language, name="nodeDefs"):
    return json.loads((LOCALES / language / f"{name}.json").read_text(encoding="utf-8"))


def texts(tree, path=()):
    """(path, text) of all."""
    for key, value in tree.items():
        if isinstance(value, str):
            yield (*path, key), value
        else:
            yield from texts(value, (*path, key))


def plain(text):
    """Without what keeps the editor from reading characters as its own syntax."""
    for character in "@{}|":
        text = text.replace(f"{{'{character}'}}", character)
    return text


def test_english_is_what_the_schemas_say(host):
    english = read("en")
    nodes = {n.define_schema().node_id: n.define_schema() for n in host.module("nodes.extension").NODES}
    assert english.keys() == nodes.keys(), "start tools/make_locales.py"
    for node_id, schema in nodes.items():
        said = english[node_id]
        assert (said["display_name"], plain(said["description"])) == (schema.display_name, schema.description)
        assert {k: plain(v["tooltip"]) for k, v in said["inputs"].items()} == {i.id: i.tooltip for i in schema.inputs}
        assert [plain(v["tooltip"]) for v in said["outputs"].values()] == [o.tooltip for o in schema.outputs]


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_text_is_there(language):
    for name in ("main", "nodeDefs"):
        there, english = (dict(texts(read(which, name))) for which in (language, "en"))
        assert there.keys() == english.keys()
        assert all(text.strip() for text in there.values())


@pytest.mark.parametrize("language", [language for language in LANGUAGES if language != "en"])
def test_sentences_are_translated_and_names_kept(language):
    english = dict(texts(read("en")))
    for path, text in texts(read(language)):
        if path[-1] == "name":  # as in graphs, help pages and errors
            assert text == english[path]
        else:
            assert text != english[path] or len(text) < 12, path


@pytest.mark.parametrize("language", LANGUAGES)
def test_nothing_reads_as_the_editors_own_syntax(language):
    for path, text in texts(read(language)):
        assert "@" not in text and "|" not in text, path
        list(Formatter().parse(text))
        assert "{" not in plain(text) or text != plain(text), path


def test_node_names_of_a_language_differ():
    for language in LANGUAGES:
        names = [entry["display_name"] for entry in read(language).values()]
        assert len(set(names)) == len(names), language
