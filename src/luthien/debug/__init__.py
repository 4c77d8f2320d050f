"""The debug pages, from what they show to what it is made of:

    pages/      one module a page, put together by routes.py
    call/       what a page says of one call, and sessions/ of several
    showing/    how a diff is laid out
    blaming/    which policy made each operation of a diff
    diffing/    what diff.py and align.py are made of
    search/     the filters, and the indexer that makes them quick
    export/     calls in the forms of other tools
    tempo/      the spans that Tempo has

live.py is the feed of changes, which kept.py remembers for those who come back; views.py and apart.py make what is
dear to make beside calls; web.py and signin.py are what all pages go through.
"""
