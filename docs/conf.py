"""Sphinx configuration; its source folder is the repository, so that links work there and on the site.

make docs    # sphinx-build --fail-on-warning -c docs . out/site
"""

from importlib.metadata import version as installed

project = "nsllm-nir"
version = release = installed("nsllm-nir")
root_doc = "docs/index"
include_patterns = ["*.md", "docs/*.md", "examples/**.md", "benchmarks/*.md"]
exclude_patterns = ["benchmarks/hls4ml_peer_report.md"]  # a template with fields
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]

html_theme = "furo"
html_title = "nsllm-nir"
html_copy_source = False
html_show_sourcelink = False

myst_heading_anchors = 3
default_role = "code"  # docstrings set names in single back quotes
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
autodoc_member_order = "bysource"
python_maximum_signature_line_length = 100
napoleon_numpy_docstring = False
nitpicky = False  # annotations name types of torch, numpy and nir, whose sites are not read
