"""The annotator's pages, by what people come for."""
