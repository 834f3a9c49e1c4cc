"""index.html of the demo: each result under a slider beside what was given, the stock way and the truth."""

from html import escape
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

from PIL import Image

if TYPE_CHECKING:
    from demo_tasks import Case, Task

TEMPLATE = Path(__file__).with_suffix(".html")
START = 65  # % of the width where a slider stands at first


def figure(out: Path, task: "Task", case: "Case") -> str:
    """A slider between the result and one of the others; writes their files."""
    files = {}
    for name, picture in case.pictures.items():
        files[name] = f"pictures/{task.name}_{case.avatar.number:03}_{name.replace(' ', '_')}.png"
        Image.fromarray(picture).save(out / files[name])
    result = files.pop(case.result)
    first = next(iter(files))
    buttons = "".join(
        f'<button type="button" data-src="{file}" aria-pressed="{str(name == first).lower()}">{name}</button>'
        for name, file in files.items()
    )
    words = f"{escape(case.avatar.prompt)} · seed {case.avatar.number}"
    return (
        f'<figure><div class="pair" style="--x:{START}%">'
        f'<img src="{result}" alt="{case.result}" loading="lazy">'
        f'<img class="left" src="{files[first]}" alt="{first}" loading="lazy">'
        f'<span class="l">{first}</span><span class="r">{case.result}</span>'
        f'<input type="range" value="{START}" aria-label="Compare {task.title}, picture {case.avatar.number}"></div>'
        f'<div class="with">{buttons}</div>'
        f"<figcaption>{escape(case.caption)}<br>{words}</figcaption></figure>"
    )


def section(out: Path, task: "Task", cases: "list[Case]") -> str:
    figures = "\n".join(figure(out, task, case) for case in cases)
    head = f"<h2>{escape(task.title)}</h2><p>{escape(task.text)}</p>"
    return f'<section id="{task.name}">{head}<div class="cards">\n{figures}\n</div></section>'


def write_page(out: Path, cases: "dict[Task, list[Case]]", versions: dict[str, str]) -> None:
    (out / "pictures").mkdir(exist_ok=True)
    text = Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        links="".join(f'<a href="#{task.name}">{escape(task.title)}</a>' for task in cases),
        sections="\n".join(section(out, task, of) for task, of in cases.items()),
        versions=escape(" · ".join(f"{k} {v}" for k, v in versions.items())),
    )
    (out / "index.html").write_text(text, encoding="utf-8")
