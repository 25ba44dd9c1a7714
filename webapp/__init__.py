"""The page of app.py: what is done for it (`studio`), and how it looks and is served (`page`, `viewer`, `server`)."""
