"""The only room that speaks SQL: tables, the law of locks, the one transaction, and verbs by aggregate."""
