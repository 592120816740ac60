"""Pictures and pages that show what a model does."""

import mmseg  # noqa: F401  (first: it registers the parts of this package, and some of them import from this one)
