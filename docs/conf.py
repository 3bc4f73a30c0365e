"""How the documentation is built: `make docs`."""

project = "Cascade Dist"
extensions = ["myst_parser"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]
html_theme = "alabaster"
html_theme_options = {"page_width": "1100px"}
myst_heading_anchors = 3
