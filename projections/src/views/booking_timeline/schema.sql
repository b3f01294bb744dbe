-- The key begins with the booking's id (for an email: with what it was tagged)
-- and a slash: the rows of a booking are together in the index.
create table booking_timeline (
    key      text   collate "C" primary key,
    position bigint not null,
    data     jsonb  not null
);
