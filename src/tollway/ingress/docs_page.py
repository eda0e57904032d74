"""`/docs`: one HTML page made from the OpenAPI document; it loads nothing, so it works offline."""

import json
from functools import cache
from html import escape
from typing import Any

_STYLE = """
body{font:16px/1.5 system-ui,sans-serif;margin:0;color:#1c2530;background:#f6f7f9}
main{max-width:60rem;margin:0 auto;padding:2rem 1rem}
h1{margin:0}h2{margin:2.5rem 0 .5rem;text-transform:capitalize}
details{background:#fff;border:1px solid #dde2e8;border-radius:6px;margin:.4rem 0}
summary{cursor:pointer;padding:.6rem .8rem}
summary code{font-weight:600}summary span{color:#5a6674;margin-left:.6rem}
.inner{padding:0 1rem 1rem;border-top:1px solid #eef1f4}
.m{display:inline-block;width:4.2rem;text-align:center;border-radius:4px;color:#fff;margin-right:.6rem}
.m{font:600 .8rem/1.6 monospace}
.get{background:#2563a8}.post{background:#2f7d4f}.put{background:#9a6a12}.delete{background:#a83232}
table{border-collapse:collapse;width:100%}td{padding:.25rem .5rem;border-bottom:1px solid #eef1f4;vertical-align:top}
pre{background:#f3f5f7;padding:.7rem;border-radius:4px;overflow:auto;font-size:.85rem}
@media(prefers-color-scheme:dark){body{background:#14181d;color:#dfe5ec}details{background:#1c2229;border-color:#2c343d}
.inner,td{border-color:#2c343d}pre{background:#14181d}summary span{color:#93a0ae}}
"""


def docs_page(document: dict[str, Any]) -> str:
    """The page."""
    return _page(json.dumps(document))


@cache
def _page(text: str) -> str:
    document = json.loads(text)
    groups: dict[str, list[str]] = {}
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            tag = (operation.get("tags") or ["other"])[0]
            groups.setdefault(tag, []).append(_operation(method, path, operation, document))
    sections = "".join(f"<h2>{escape(tag)}</h2>{''.join(items)}" for tag, items in groups.items())
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Tollway API</title>'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<style>{_STYLE}</style></head><body><main><h1>Tollway API</h1>"
        f"<p>{escape(document['info'].get('description', ''))} The same as <a href='/openapi.json'>openapi.json</a>. "
        "Send <code>Authorization: Bearer tw_…</code> with every request to <code>/v1</code>.</p>"
        f"{sections}</main></body></html>"
    )


def _operation(method: str, path: str, operation: dict[str, Any], document: dict[str, Any]) -> str:
    parts = [f"<p>{escape(operation.get('description', ''))}</p>"]
    rows = "".join(
        f"<tr><td><code>{escape(given['name'])}</code></td><td>{escape(given['in'])}</td>"
        f"<td>{escape(given.get('description', ''))}</td></tr>"
        for given in operation.get("parameters", [])
    )
    if rows:
        parts.append(f"<table>{rows}</table>")
    body = operation.get("requestBody")
    if body:
        parts.append(f"<p>Body</p>{_schema(body['content']['application/json']['schema'], document)}")
    answers = ", ".join(
        f"<code>{escape(status)}</code>" for status in operation.get("responses", {}) if status != "default"
    )
    parts.append(f"<p>Answers {answers}, else a problem document.</p>")
    return (
        f'<details><summary><b class="m {method}">{method.upper()}</b><code>{escape(path)}</code>'
        f"<span>{escape(operation.get('summary', ''))}</span></summary>"
        f'<div class="inner">{"".join(parts)}</div></details>'
    )


def _schema(schema: dict[str, Any], document: dict[str, Any]) -> str:
    name = schema.get("$ref", "").rpartition("/")[2]
    shown = document["components"]["schemas"].get(name, schema)
    return f"<pre>{escape(json.dumps(shown, indent=2))}</pre>"
