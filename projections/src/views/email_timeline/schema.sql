-- The key begins with the email's id and a slash: the rows of an email are
-- together in its index.
create table email_timeline (
    key      text   collate "C" primary key,
    position bigint not null,
    data     jsonb  not null
);
