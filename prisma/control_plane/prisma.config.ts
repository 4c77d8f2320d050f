// For Prisma's own commands: `prisma migrate status --config prisma/control_plane/prisma.config.ts`.
export default {
  schema: "schema.prisma",
  migrations: { path: "migrations" },
  datasource: { url: process.env.DATABASE_URL },
};
