create table payments (
    key          text   collate "C" primary key,
    position     bigint not null,
    data         jsonb  not null,
    at           text   collate "C" not null generated always as (data ->> 'at') stored,
    currency     text   not null generated always as (data ->> 'currency') stored,
    amount_cents bigint not null generated always as ((data ->> 'amount_cents')::bigint) stored
);
create index on payments (at);
