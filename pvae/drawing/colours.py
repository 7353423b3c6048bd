"""Colours of charts: matplotlib takes no CSS variables, so it draws codes that `chart` replaces."""

INK, MUTED, RULE, ACCENT, SECOND, WARN, PAPER, FILL, WARN_FILL = (f"#0a0b0{i}" for i in range(9))
CLASSES = [f"#0a0c0{i}" for i in range(10)]

_NAMES = ("ink", "muted", "rule", "accent", "second", "warn", "paper", "fill", "warn-fill")
VARIABLES = {f"#0a0b0{i}": name for i, name in enumerate(_NAMES)} | {
    code: f"class-{i}" for i, code in enumerate(CLASSES)
}
