"""All that knows Flask: views (a file for each noun), the API, forms, how things are displayed, security.

What a view does with what it was asked is in `actions`. No torch is imported in this process.
"""
