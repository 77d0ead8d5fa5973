"""The news feed: authors, who own posts and their counts, and feed partitions, who own feeds and follows.

Life of a post: the author's actor stores it together with a `FanoutJob`, and from its ack on every feed shows
it, as posts that are still being pushed are merged in at read. It then goes to each partition that has
followers, which stores who got it. Hot authors' posts are only ever merged in.
"""
