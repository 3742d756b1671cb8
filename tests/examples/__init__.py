"""Parts of one's own, one a file, as CONTRIBUTING.md shows them; ``test_examples.py`` trains with each."""
