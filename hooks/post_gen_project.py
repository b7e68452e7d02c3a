"""Says what to do next."""

import json

SLUG = r"""
{{ cookiecutter.project_slug | tojson }}
"""

if __name__ == "__main__":
    slug = json.loads(SLUG)
    print(f"\nA service is in {slug}/. Next:\n\n    cd {slug}\n    make run     # or: make check\n")
