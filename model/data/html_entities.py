"""Writes html_entities.txt: every named character reference of HTML 5, one `name character(s)` pair a line, sorted by bytes."""
import html.entities
from pathlib import Path

rows = sorted(html.entities.html5.items(), key=lambda row: row[0].encode())
lines = (f"{name} {' '.join(f'{ord(c):x}' for c in value)}\n" for name, value in rows)
Path(__file__).with_name("html_entities.txt").write_text("".join(lines))
