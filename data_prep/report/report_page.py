"""The report's facts as one self-contained HTML page.

Ids, captions, licences and reasons are untrusted: every word is escaped, and the page's policy runs no script.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..manifests.thumbnails import data_uri, escaped
from .report_facts import BINS, ENDS, ReportFacts, Thumbnail

MAX_PICTURES = 5 * 2**18  # bytes of all images before they become text, a third longer: the page stays below 2 MiB
LISTED = 12  # rows of a table of counts
EXAMPLES = 40  # rows of a table of single cases
STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; color: #222; margin: 0 auto; max-width: 72rem; padding: 1rem 1.5rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; border-bottom: 1px solid #ddd; }
.cards { display: flex; flex-wrap: wrap; gap: .75rem; }
.cards div { background: #f3f3f1; border-radius: 6px; padding: .5rem .9rem; min-width: 6rem; }
.cards b { display: block; font-size: 1.4rem; font-variant-numeric: tabular-nums; }
.columns { display: grid; grid-template-columns: repeat(auto-fit, minmax(19rem, 1fr)); gap: 0 2rem; }
table { border-collapse: collapse; width: 100%; } td, th { padding: .15rem .5rem .15rem 0; text-align: left;
  vertical-align: top; overflow-wrap: anywhere; } td.n { text-align: right; white-space: nowrap; width: 4rem; }
td.b { width: 35%; } .bar { background: #3a6ea5; height: .7rem; border-radius: 2px; min-width: 1px; }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(132px, 1fr)); gap: .6rem; }
figure { margin: 0; } figure img { width: 100%; border: 1px solid #ddd; border-radius: 4px; background: white; }
figcaption { font-size: .75rem; color: #555; overflow-wrap: anywhere; }
.histogram { display: flex; align-items: flex-end; gap: 2px; height: 9rem; border-bottom: 1px solid #888; }
.histogram div { flex: 1; background: #3a6ea5; }
.axis { display: flex; justify-content: space-between; font-size: .8rem; color: #555; }
.note { color: #666; } .bad { color: #a33; }
"""


def page(facts: ReportFacts, title: str) -> str:
    """The whole page as HTML."""
    parts = [*_head(title), *_cards(facts), *_thumbnails(facts), *_contents(facts), *_coverage(facts.shown)]
    parts += [*_ranking(facts), *_captions(facts), *_rejected(facts), *_doctor(facts.doctor), "</html>"]
    return "\n".join(parts) + "\n"


def _head(title: str) -> Iterator[str]:
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
    yield '<!DOCTYPE html>\n<html lang="en">\n<meta charset="utf-8">'
    yield f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
    yield f"<title>{escaped(title)}</title>\n<style>{STYLE}</style>\n<h1>{escaped(title)}</h1>"


def _cards(facts: ReportFacts) -> Iterator[str]:
    numbers = {"scenes": facts.scenes, "views": facts.views, "with a caption": facts.captioned}
    numbers |= {"rejected": len(facts.rejected), "not usable": len(facts.broken)}
    cards = (f"<div><b>{number:,}</b>{name}</div>" for name, number in numbers.items())
    yield f'<div class="cards">{"".join(cards)}</div>'


def _thumbnails(facts: ReportFacts) -> Iterator[str]:
    yield f"<h2>{len(facts.shown)} scenes, chosen at random</h2>"
    yield from _grid(facts.shown, MAX_PICTURES * 2 // 3)


def _grid(thumbnails: Sequence[Thumbnail], budget: int) -> Iterator[str]:
    """Figures, as many as fit into so many bytes of images."""
    yield '<div class="grid">'
    for number, thumbnail in enumerate(thumbnails):
        budget -= len(thumbnail.image)
        if budget < 0:
            yield f'</div><p class="note">and {len(thumbnails) - number} more</p><div>'
            break
        words = escaped(thumbnail.caption or "no caption", 80)
        remark = f"<b>{escaped(thumbnail.remark)}</b> " if thumbnail.remark else ""
        yield f'<figure><img alt="" src="{data_uri(thumbnail.image)}" title="{escaped(thumbnail.id)}">'
        yield f"<figcaption>{remark}{words}<br>{escaped(thumbnail.id, 60)}</figcaption></figure>"
    yield "</div>"


def _contents(facts: ReportFacts) -> Iterator[str]:
    yield '<div class="columns">'
    yield from _counts("Licences", facts.licences)
    yield from _counts("Sources", facts.sources)
    yield from _counts("Views of a scene", facts.frames)
    yield from _counts("Image size, pixels", facts.sizes)
    if facts.objects is not None:
        yield from _counts("What became of the objects", facts.objects, sort=False)
    yield "</div>"


def _counts(title: str, counts: Mapping[str, int], *, sort: bool = True) -> Iterator[str]:
    """A table with bars, the most frequent first."""
    rows = Counter(counts).most_common() if sort else list(counts.items())
    most = max((count for _, count in rows), default=1) or 1
    yield f"<div><h2>{escaped(title)}</h2><table>"
    for name, count in rows[:LISTED]:
        bar = f'<div class="bar" style="width:{100 * count / most:.1f}%"></div>'
        yield f'<tr><td>{escaped(name, 80)}</td><td class="n">{count:,}</td><td class="b">{bar}</td></tr>'
    yield "</table>"
    if len(rows) > LISTED:
        rest = sum(count for _, count in rows[LISTED:])
        yield f'<p class="note">and {len(rows) - LISTED} others ({rest:,})</p>'
    yield "</div>"


def _coverage(shown: Sequence[Thumbnail]) -> Iterator[str]:
    """Histogram of the share of its images that each object covers, and both ends of it."""
    if not shown:
        return
    bins = Counter(min(int(thumbnail.coverage * BINS), BINS - 1) for thumbnail in shown)
    most = max(bins.values())
    bars = (
        f'<div style="height:{100 * bins[k] / most:.1f}%" title="{100 * k / BINS:.0f} to {100 * (k + 1) / BINS:.0f}%: '
        f'{bins[k]} scenes"></div>'
        for k in range(BINS)
    )
    yield f'<h2>How much of the images the object covers ({len(shown)} scenes)</h2><div class="histogram">'
    yield from bars
    yield '</div><div class="axis"><span>0%</span><span>50%</span><span>100%</span></div>'
    order = sorted(shown, key=lambda thumbnail: thumbnail.coverage)
    if len(order) >= 2 * ENDS:
        for name, ends in (("least", order[:ENDS]), ("most", order[-ENDS:])):
            marked = [_marked(end, f"{end.coverage:.1%}") for end in ends]
            yield f"<p>Those that cover {name}:</p>"
            yield from _grid(marked, MAX_PICTURES // 12)


def _marked(thumbnail: Thumbnail, remark: str) -> Thumbnail:
    return Thumbnail(thumbnail.id, thumbnail.caption, thumbnail.image, thumbnail.coverage, remark)


def _ranking(facts: ReportFacts) -> Iterator[str]:
    for name, ends in (("Best ranked", facts.best), ("Worst ranked", facts.worst)):
        if ends:
            yield f"<h2>{name}</h2>"
            yield from _grid(ends, MAX_PICTURES // 12)


def _captions(facts: ReportFacts) -> Iterator[str]:
    if facts.without_caption:
        some = ", ".join(escaped(name, 60) for name in facts.without_caption[:EXAMPLES])
        more = f" and {len(facts.without_caption) - EXAMPLES:,} more" if len(facts.without_caption) > EXAMPLES else ""
        share = f"{len(facts.without_caption):,} of {facts.scenes:,}"
        yield f"<h2>Scenes without a caption: {share}</h2><p>{some}{more}. Stage 1 cannot be trained on them.</p>"


def _rejected(facts: ReportFacts) -> Iterator[str]:
    if facts.rejected:
        kinds = Counter(str(row.get("kind", "unknown")) for row in facts.rejected)
        yield from _counts(f"Rejected objects: {len(facts.rejected):,}", kinds)
        rows = [(row.get("id", ""), row.get("kind", ""), row.get("reason", "")) for row in facts.rejected]
        yield from _cases(("object", "kind", "reason"), rows)
    if facts.broken:
        yield f'<h2 class="bad">Scenes that cannot be used: {len(facts.broken):,}</h2>'
        yield from _cases(("scene", "reason"), facts.broken)


def _doctor(report: Mapping[str, Any] | None) -> Iterator[str]:
    if report is None:
        return
    findings = report["findings"]
    kinds = Counter(f"{finding.get('kind')} ({finding.get('level')})" for finding in findings)
    yield from _counts(f"The doctor: {len(findings):,} findings", kinds)
    faults = [finding for finding in findings if finding.get("level") == "fault"]
    rows = [[finding.get(key, "") for key in ("scene", "kind", "evidence", "advice")] for finding in faults]
    yield from _cases(("scene", "fault", "seen", "what to do"), rows)


def _cases(heads: Sequence[str], rows: Sequence[Sequence[Any]]) -> Iterator[str]:
    if not rows:
        return
    yield f"<table><tr>{''.join(f'<th>{head}</th>' for head in heads)}</tr>"
    for row in rows[:EXAMPLES]:
        yield f"<tr>{''.join(f'<td>{escaped(cell)}</td>' for cell in row)}</tr>"
    yield "</table>"
    if len(rows) > EXAMPLES:
        yield f'<p class="note">and {len(rows) - EXAMPLES:,} more</p>'
