"""The report: one offline HTML file made of the panels of the analyses. It reads stored rows and computes no statistic."""
