"""The corrections file that an audit suggests: every entry commented out, to be decided on."""

from collections.abc import Mapping, Sequence

import yaml

from segmentation.evaluation.audit.duplicates import Duplicates, Pair
from segmentation.evaluation.audit.samples import Facts

HEAD = """\
# Corrections of {name}: suggestions of `segmentation audit`. None is in force.
# Take the # from the start of a line to follow it, add your own, and train with the option
# --data.corrections THIS_FILE
# drop:   these samples are left out.
# prefer: the first sample gets the mask of the second.
# merge:  all samples of a list, such as - [A, B], get the union of their masks.
"""


def template(
    name: str,
    facts: Sequence[Facts],
    duplicates: Duplicates,
    contradicting: Sequence[Pair],
    faults: Mapping[str, str],
) -> str:
    """The file's text. With all its suggestions in force it is valid, too.

    Of equal images the one with the most foreground is kept, and samples that cannot be read are
    dropped. Of contradicting masks the larger one is preferred: what was overlooked is more common
    than what was made up.

    Args:
        name: Of the dataset.
        facts: The samples that can be read.
        duplicates: Among them.
        contradicting: Pairs of duplicates, worst first.
        faults: What is wrong with those that cannot be read.
    """
    foreground = {one.id: one.foreground or 0 for one in facts}
    drop = dict(faults)
    for ids in duplicates.exact:
        kept = max(ids, key=lambda name: foreground[name])
        drop |= {name: f"the same image as {kept}" for name in ids if name != kept}
    prefer: dict[str, tuple[str, str]] = {}
    for pair in contradicting:
        right, wrong = pair.first, pair.second
        if foreground[right] < foreground[wrong]:
            right, wrong = wrong, right
        owners = {owner for owner, _ in prefer.values()}
        if (
            wrong not in drop
            and wrong not in prefer
            and wrong not in owners
            and right not in prefer
        ):
            why = f"IoU {pair.iou:.2f}, difference {pair.difference:.3g}"
            prefer[wrong] = right, why
    lines = [HEAD.format(name=name), "drop:"]
    lines += [f"#  - {_quoted(name)}  # {_line(why)}" for name, why in drop.items()]
    lines.append("\nprefer:")
    lines += [
        f"#  {_quoted(wrong)}: {_quoted(right)}  # {why}" for wrong, (right, why) in prefer.items()
    ]
    lines.append("\nmerge:")
    return "\n".join(lines) + "\n"


def _quoted(name: str) -> str:
    return yaml.safe_dump(name, default_style='"', allow_unicode=True, width=2**20).strip()


def _line(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text)
