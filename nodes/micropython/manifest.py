"""Freezes the library into a firmware: include() this file in the board's own manifest."""

metadata(description="Maille: this board joins a mesh that runs AI models", version="0.1.0")  # noqa: F821
package("maille", opt=3)  # noqa: F821
