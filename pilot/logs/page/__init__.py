"""The job page: one self-contained HTML file that lies beside a job's logs and tells what became of it.

    story.py      JobStory: all that a page shows, frozen values, from a job that ended well or one of which nothing ran
    telling.py    from what the pilot has to a JobStory
    document.py   from a JobStory to HTML
    plots.py      time plots as SVG; series.py makes them small without losing a peak
    words.py      sizes, times and rates for people; style.py the looks; prmon.py reads a memory monitor's table

No module here does any I/O. Nothing of it is imported before a page is made.
"""
