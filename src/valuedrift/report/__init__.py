"""The report: one offline HTML file made of panels. It reads stored rows and computes no statistic.

A panel is one file that defines `class Panel`:

    order: int                                        panels appear from the lowest to the highest
    title: str                                        its heading, and its entry in the page's navigation
    def html(self, run: Run) -> str                   its body, every stored text escaped; "" where it has nothing to show
"""
